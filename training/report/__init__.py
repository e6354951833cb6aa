"""Report of all results in a folder as one HTML file with animated flows, numbers, and curves.

``finding`` locates the files. A module for each subject reads them into sections (``content``), and
``page`` renders these with the templates next to it. Files are read by the readers of
``training.pictures``, and nothing is measured again. Charts are made with Bokeh; the script for
animation is ``templates/report.js``.
"""
