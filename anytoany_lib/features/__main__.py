"""`python -m anytoany_lib.features`, which launchers of several processes start: the same as `anytoany features`."""

from anytoany_lib.features.precomputing import main

if __name__ == "__main__":
    main()
