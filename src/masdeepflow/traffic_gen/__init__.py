"""The self-test tool: small HTTP, MySQL and benchmark peers to watch with the agent.

It imports nothing of the agent, so that what it sends cannot share a mistake with what the agent reads.
"""
