<?php
declare(strict_types=1);
$xml = new SimpleXMLElement('<shop><price>3</price><price>4</price></shop>');
echo array_sum(array_map('intval', iterator_to_array($xml->price, false))), PHP_EOL;
