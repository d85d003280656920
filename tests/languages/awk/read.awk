BEGIN { getline line <"out.txt"; print line }
