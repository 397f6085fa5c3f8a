"""From scores to verdicts: calibration by negatives, ROC areas, intervals; the one judge."""
