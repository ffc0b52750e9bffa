"""Tests of the page. They are a package, so that fixtures can last as long as its tests."""
