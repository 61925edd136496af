"""How results are shown: text, Markdown and self-contained HTML. Nothing here measures or starts a twin."""
