"""Images and labels: `catalog` says what a data name stands for, the other files are what it is made of.

Where they come from:   array_sources, dataset_objects, picture_folders, named_sets
What they must be:      array_checks, labels, pixels and pixel_scales, pictures, duplicates
How batches are cut:    images (the base), array_images, folder_images, splits
"""
