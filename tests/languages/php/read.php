<?php
readfile('out.txt');
