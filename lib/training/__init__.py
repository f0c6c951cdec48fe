"""Training and inference, in reading order.

tasks.py          what differs between a classifier and an embedding: loss, order of the rows, evaluation
run.py            what the functions of one run pass around; the time budget
loop.py           train_epoch, train_step, validate, end_epoch
optimizer.py      parameter groups, optimizer, learning rate as a function of the step
checkpoint.py     resumable states, written whole or not at all
inference.py      outputs for all images, in order, from all processes
distributed.py    what several processes agree on: errors, stops, buffers
accelerator.py    devices, precision, trackers
"""
