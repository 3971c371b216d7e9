"""The built-in recipes: YAML files, each with a header that is a runnable command."""
