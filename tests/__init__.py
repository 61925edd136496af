"""Makes `tests` a package: torch-fidelity's wheel installs one of that name, which would hide a folder without this."""
