"""Files that a released version wrote: a later one opens them, or refuses them clearly."""
