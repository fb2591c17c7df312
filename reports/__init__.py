"""The report: an Analysis as one self-contained HTML file. `page.render` and `page.write` are the way in.

`charts` and `trust` choose what to draw, `rows` draws it, `svg` makes it follow the page's colours and policy;
`tables`, `claims` and `units` put figures into words. A new chart is a `*_data` function named in `CHARTS`.
Imports `results` only. No arithmetic on samples happens here: what is drawn was computed in `results`.
"""
