"""The five seams and their engines; opened by URL. Nothing is imported until it is opened."""
