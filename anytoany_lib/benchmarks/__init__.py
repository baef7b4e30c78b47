"""The numbers of the papers: describing and answering (`understanding`), generating (`generation`), and their metrics."""
