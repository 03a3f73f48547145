"""The workbook for visual sound source localization: model, losses, loaders and what the notebooks need around them."""
