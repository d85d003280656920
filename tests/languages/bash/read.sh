cat out.txt
