"""The Hugging Face hub: how repositories are named, their files, what these tell, and the page of a checkpoint."""
