"""The targets of documents: typed IR in, what a paper prints out, in LaTeX or in Markdown with KaTeX"""
