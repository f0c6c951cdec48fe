"""Training and inference, in reading order.

tasks        what differs between a classifier and an embedding: loss, order of the rows, evaluation
run          what the functions of one run pass around
time_budget  how long batches and the rest of a run take
preparation  what is done to a network before its training, and notes on it
batch_size   images per batch that fit a GPU's memory
state        where training stands, what it leaves
loop         train_epoch, train_step, validate, end_epoch
optimizer    parameter groups, optimizer, learning rate as a function of the step
checkpoint   resumable states, written whole or not at all
inference    outputs for all images, in order, from all processes
distributed  processes, and what they agree on: errors, stops, BatchNorm's statistics
accelerator  precision, trackers
"""
