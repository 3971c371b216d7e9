"""The built-in teachers, one class a file; they are reached by name, through entry points."""
