"""What other libraries give to unirun or get from it: a file for each, imported when used."""
