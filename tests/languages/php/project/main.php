<?php
require __DIR__ . '/shop/prices.php';

echo total(6, 7), "\n";
