"""What went wrong in other caches, each defect told by a test that would find it here."""
