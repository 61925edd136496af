"""What makes this project's own documentation. Each study is a program: `python -m eval.studies.NAME`."""
