"""The families that ship: one declaration a file. Importing this package registers them."""

from neuroprune.anatomy.families import bert, distilbert, llama, opt, t5

__all__ = ["bert", "distilbert", "llama", "opt", "t5"]
