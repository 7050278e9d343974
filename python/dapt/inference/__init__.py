"""What a trained model says: scores of a dataset, labels of files, of objects and of scenes."""
