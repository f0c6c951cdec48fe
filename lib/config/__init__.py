"""The recipe and the command line, in reading order:

traits        what other choices must know about each loss before torch is loaded
metric_traits the same about each metric, with its formula
recipe        sections and fields: types, ranges, defaults, meaning; retired and added fields
constraints   constraints between several fields
schema        the JSON schema of a recipe, and its types in words
validation    a recipe from values, every wrong value named
yaml_text     YAML without guesses: 01, yes and dates stay text
draft         a recipe in the making, with comments
space         choices and ranges of fields, for tune.py
command_line  recipe files and an option per field, read to a recipe; a recipe written back
"""
