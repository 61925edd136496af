"""How results are shown: text tables, Markdown and self-contained HTML pages. Nothing here measures or starts a twin."""
