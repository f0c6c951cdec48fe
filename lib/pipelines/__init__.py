"""What the scripts call, in reading order.

runs                 open a run: choose and lock its folder; start, resume or done
readable             test images that are damaged
run_tables           the tables of a run, and their images as datasets
features             features of a frozen backbone, computed once and kept
frozen               heads that start fitted; training on features
shift                test images compared with held-out ones
build                the network of a run, and its trainer
run_result           predictions of a trained run, submission, page, metrics.json
train                one run from tables to report
predict              any images with trained networks
kfold                cross-validation: a run per fold
folds_result         the results of all folds together
final                models of all rows, after the folds
estimate             time, memory and disk of a training, before it
probe                backbones compared by heads on frozen features
trials               an Optuna study whose trials are runs
tune                 fields of the recipe tuned, a run per trial
ensemble             combinations of runs
embed                embeddings of a table's images, kept in the run's folder
retrieval_session    what one call of retrieve.py works with
gallery_files        networks in a gallery's folder, and files with the same content
encounters           which queries, and which images of the gallery, are of one encounter
local_matching       keypoints and local scores of a gallery's images and of queries
answering            the open-set model of the gallery that is asked, fitted or read
export_individuals   captures and Camtrap DP's observations from the answers
image_answers        names of images as answers to queries
retrieve             queries searched in a gallery
pair                 whether two images show the same individual
catalogue            a gallery without training
change_gallery       rows added and removed, individuals renamed, merged and split, changes undone
catalogue_errors     possible errors of a gallery as a table and a page
discovery_inputs     labelled images by models that haven't learnt them all, and the images to group
discovery_matching   local scores of candidate pairs, and what they add
discovery_decisions  what a person decided on the review page
discovery_output     the files and the page of discover
discover             the test images grouped into individuals
compare              runs side by side
prepare              a first recipe from a contest's folder
prepare_lists        its fields where text files list the images
prepare_long         its fields where the sample has a row per image and label
prepare_table        its fields where a table lists the training images
prepare_labels       its fields of the labels
unpack               images of packed files as files
kaggle               Kaggle's own client: downloads, submissions
submit               a submission handed in by Kaggle's client
export               a network for programs without Fluke
bundle               runs, code, wheels and a notebook for machines without internet
run_bundle           the prediction there, within a time limit
"""
