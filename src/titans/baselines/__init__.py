"""Other models behind the interface of ours, to train and measure side by side: transformers' own, never rewritten."""
