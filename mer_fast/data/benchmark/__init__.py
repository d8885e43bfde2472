"""The synthetic benchmark set: made people, their expressions, and everything that distracts from them."""
