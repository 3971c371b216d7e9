"""Built-in students, one class per file; `kdtoolkit.plugin("student", name)` finds them by their entry points."""
