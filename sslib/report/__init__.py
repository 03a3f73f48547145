"""From results to figures, sentences, pages and executed notebooks."""
