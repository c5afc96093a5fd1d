"""The trainer: a DeepSeek-V2-shaped mixture of experts over the token shards of corpus/tokens.py."""
