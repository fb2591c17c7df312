"""The report: `charts` turns an Analysis into SVG, `page` into one self-contained HTML file.

Imports `results` only.  No arithmetic on samples happens here: what is drawn was computed in `results`.
"""
