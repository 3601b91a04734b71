"""For those who test what they wrote for AWS Batch: a pytest fixture over a server of its own.

pytest finds the plug-in by itself (`batchyard.testing.plugin`); see docs/testing-your-pipeline.md. Nothing of it does
anything, or imports more than the standard library and pytest, until a test asks for the fixture.
"""
