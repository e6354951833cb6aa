"""One HTML file of everything that a folder holds: a motion to touch, numbers, and curves.

``finding`` tells which files are there, a module for each subject reads them into sections
(``content``), and ``page`` lays these out by the templates beside it. Files are read by what draws
pictures of them (``training.pictures``) and nothing is measured anew. Charts are Bokeh's; what
moves is in ``templates/report.js``.
"""
