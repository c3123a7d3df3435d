"""`python -m autoddpm` is the command `autoddpm`."""

from autoddpm.start import main

if __name__ == "__main__":
    main()
