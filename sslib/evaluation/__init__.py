"""From a trained model, or maps from elsewhere, to tables with controls and intervals."""
