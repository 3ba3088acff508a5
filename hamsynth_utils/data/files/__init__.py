"""Files that come from elsewhere: pictures, lesion masks, and tables of images."""
