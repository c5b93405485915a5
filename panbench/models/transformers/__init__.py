"""Models of Hugging Face's transformers: the network and its logits are theirs, everything around it is panbench's."""
