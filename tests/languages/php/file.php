<?php
file_put_contents('out.txt', "made by php\n");
