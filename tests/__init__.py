"""What tierd promises, checked; one folder for each kind of question."""
