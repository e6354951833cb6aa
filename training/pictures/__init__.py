"""Contents of results: figures, interactive parts, tables and judged numbers.

Each kind of result has one module, which reads its files and returns a ``Content``. ``figure``
describes figures without a plotting library, ``drawing`` draws them with Matplotlib, and ``album``
finds the module for each file.
"""
