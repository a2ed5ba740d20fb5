"""What can be said of a spec without running its generated code: what its scalars may be, its cost, what classes know.

Takes checked programs. Nothing here changes what a program means or writes code.
"""
