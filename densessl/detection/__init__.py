"""Detection: torchvision's Faster and Mask R-CNN trained on a copy of a backbone, scored as COCO does."""
