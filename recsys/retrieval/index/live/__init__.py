"""A live index: a frozen segment plus adds and deletes, rebuilt in the background."""
