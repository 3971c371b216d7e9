"""`python -m kdtoolkit`: the same as `kdtool`, for launchers that start a module (torchrun -m kdtoolkit)."""

from .cli.main import main

if __name__ == "__main__":
    main()
