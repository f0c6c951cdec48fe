"""Points that match between two photographs, in reading order:

keypoints  SIFT keypoints of an image as RootSIFT, kept on disk
geometry   matches of two images' keypoints that one homography explains
scoring    local scores of pairs of images, in several threads
"""
