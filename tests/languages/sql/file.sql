.once out.txt
SELECT 'made by sql';
