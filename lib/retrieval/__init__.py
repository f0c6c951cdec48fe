"""Retrieval of individuals by embeddings, in reading order:

similarity         cosine and l2: traits, normalization, the check of embeddings
faiss_index        the FAISS index: built, searched, changed, saved, opened memory-mapped
milvus_index       the same in Milvus: a cluster, or Milvus Lite in a file
vector_index       what an index of vectors can do, and the two there are
rows               rows of a gallery, and which of them answer which query
held_out           labelled queries that the network hasn't learnt
gallery            rows of known individuals with their index
catalogue_errors   wrong names in a gallery, by how probable they are
history            changes of a gallery, and the last ones undone
ranking            ranked identities from the nearest gallery images
class_centres      ArcFace's weight vectors as a second source of scores
pair_model         log-odds that two images show one individual
local_fusion       cosines and local scores of pairs together
local_search       candidates of queries scored by points that match, too
queries            images that are asked, with what their search respects
search             the best identities of queries, as the recipe's retrieval section says
encounter_search   photographs of one encounter asked together; left flanks compared with left ones
thresholds         the threshold for the new label: its curve, the rules, cross-fitting
calibration        probabilities from scores, the share of new individuals
answer_model       one calibrated distribution over a query's names and "new"
candidates         the rows of a gallery that meet a condition on its columns
evaluation         metrics of queries whose identities are known
combination        thresholds of folds for their combined embeddings
open_set           threshold, share and calibrations, fitted on held-out rows
clustering         average linkage of images and known individuals
links              elements joined as far as they don't contradict each other
discovery          images and known individuals grouped; how sure each image's place is
whitening          features without what differs within individuals
individual_folds   what a model has learnt, and what it is asked as if it were a test
counting           the number of individuals behind a number of clusters
pseudo_tests       held-out images grouped as the test is: threshold, metrics, probabilities
merge_probability  that two merged clusters are one individual
encounters         photographs whose looks speak against their encounter
review_pairs       merges whose answer by a person would change most
cluster_names      names of new individuals, kept when photographs are added
image_sets         the images most similar to a query, and which of them show the same
pairs              verification of pairs of images
exports            capture history, and Camtrap DP's individualID
result             all answers as a table and as threshold.json
"""
