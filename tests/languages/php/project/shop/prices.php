<?php
function total(int $count, int $price): int
{
    return $count * $price;
}
