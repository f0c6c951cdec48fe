"""The submission of a contest, in the sample submission's columns, rows and file format, in reading order:

formats    one class per format of a submission's columns, and their registry
choice     the format that the recipe, the metric or the sample asks for; the check of a sample before training
decisions  what a run fitted to turn logits into cells
pooling    one answer for several images
writing    write a submission from logits or from ranked labels
checking   read a written submission and compare it with the sample
"""
