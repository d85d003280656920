echo 'made by bash' >out.txt
